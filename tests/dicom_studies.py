"""Forty synthetic examinations in the words of four vendors and four languages, and the series that each role has.

Role "?" marks the series between which only a person can choose.
"""

from __future__ import annotations

from tests.dicom_files import Made

GD = {"ContrastBolusAgent": "Gadovist"}
EMPTY = {"ContrastBolusAgent": ""}


Study = tuple[str, list[Made]]

STUDIES: dict[str, Study] = {
    # Siemens
    "siemens mprage": (
        "siemens",
        [
            Made("localizer", "loc"),
            Made("t2_tse_tra_320", "t2", "t2"),
            Made("t2_tirm_tra_dark-fluid_FLAIR", "flair", "flair"),
            Made("t1_mprage_sag_p2_iso", "mprage", "t1"),
            Made("ep2d_diff_3scan_trace_p2", "dwi"),
            Made("ep2d_diff_3scan_trace_p2_ADC", "adc"),
            Made("t1_mprage_sag_p2_iso_KM", "mprage", "t1c", GD),
        ],
    ),
    "siemens spin echo": (
        "siemens",
        [
            Made("AAHead_Scout", "loc"),
            Made("t1_se_tra", "t1se", "t1"),
            Made("t2_tse_tra_512", "t2", "t2"),
            Made("t2_flair_tra", "flair", "flair"),
            Made("t1_se_tra post gd", "t1se", "t1c"),
        ],
    ),
    "siemens nach KM": (
        "siemens",
        [
            Made("localizer", "loc"),
            Made("t1_tse_tra nativ", "t1se", "t1"),
            Made("t1_tse_tra nach KM", "t1se", "t1c"),
            Made("t2_tse_tra", "t2", "t2"),
            Made("t2_tirm_tra_dark-fluid", "flair", "flair"),
            Made("t2_fl2d_tra_hemo", "t2star"),
        ],
    ),
    "siemens ohne KM": (
        "siemens",
        [
            Made("T1 SE ohne KM", "t1se", "t1"),
            Made("T1 SE mit KM", "t1se", "t1c"),
            Made("T2 TSE", "t2", "t2"),
            Made("FLAIR", "flair", "flair"),
            Made("SWI_Images", "swi"),
            Made("mIP_Images(SW)", "mip"),
        ],
    ),
    "siemens reformats": (
        "siemens",
        [
            Made("t1_mprage_sag", "mprage", "t1"),
            Made("t1_mprage_sag_Gd", "mprage", "t1c", GD),
            Made("t1_mprage_sag_Gd_MPR_cor", "mpr", "", GD),
            Made("t1_mprage_sag_Gd_MPR_tra", "mpr", "", GD),
            Made("t2_tse_tra", "t2", "t2"),
            Made("t2_space_dark-fluid_sag", "flair3d", "flair"),
            Made("SUB_t1_mprage", "sub", "", GD),
        ],
    ),
    "siemens space": (
        "siemens",
        [
            Made("t1_space_sag_p2", "t1se", "t1", {"mm": (1, 1, 1)}),
            Made("t1_space_sag_p2_+C", "t1se", "t1c", {"mm": (1, 1, 1)}),
            Made("t2_space_sag_p2_iso", "t2space", "t2"),
            Made("t2_space_flair_sag", "flair3d", "flair"),
        ],
    ),
    "siemens perfusion": (
        "siemens",
        [
            Made("t1_fl2d_tra", "t1gre", "t1"),
            Made("t1_fl2d_tra_post", "t1gre", "t1c"),
            Made("ep2d_perf", "perf", "", GD),
            Made("relCBV", "perf", "", GD),
            Made("t2_blade_tra", "t2", "t2"),
            Made("FLAIR blade tra", "flair", "flair"),
            Made("TOF_3D_multi-slab", "tof"),
        ],
    ),
    "siemens mp2rage": (
        "siemens",
        [
            Made("t1_mp2rage_INV2", "mp2rage2"),
            Made("t1_mprage", "mprage", "t1"),
            Made("t1_mprage_gd", "mprage", "t1c"),
            Made("t2_tse", "t2", "t2"),
            Made("tirm_tra", "flair", "flair"),
            Made("t2_tirm_cor STIR", "stir"),
        ],
    ),
    "siemens coarse and fine": (
        "siemens",
        [
            Made("t1_se_tra", "t1se", "t1"),
            Made("t1_se_tra_KM", "t1se", "", GD),
            Made("t1_mpr_sag_KM", "mprage", "t1c", {**GD, "ImageType": ["ORIGINAL", "PRIMARY", "M", "NORM", "DIS2D"]}),
            Made("t2_tse_tra", "t2", "t2"),
            Made("flair_tra", "flair", "flair"),
        ],
    ),
    "siemens two T1c": (
        "siemens",
        [
            Made("t1_se_tra", "t1se", "t1"),
            Made("t1_se_tra_KM", "t1se", "?", GD),
            Made("t1_se_tra_KM Wdh", "t1se", "?", GD),
            Made("t2_tse_tra", "t2", "t2"),
            Made("flair_tra", "flair", "flair"),
        ],
    ),
    # GE: one protocol name for the whole examination
    "ge bravo": (
        "ge",
        [
            Made("3Plane Loc SSFSE", "loc"),
            Made("Ax T2 FRFSE", "t2", "t2"),
            Made("Ax T2 FLAIR", "flair", "flair"),
            Made("Sag 3D BRAVO", "spgr", "t1"),
            Made("Sag 3D BRAVO +C", "spgr", "t1c", GD),
            Made("Ax DWI B1000", "dwi"),
            Made("Apparent Diffusion Coefficient (mm2/s) ADC", "adc"),
        ],
    ),
    "ge fspgr": (
        "ge",
        [
            Made("ASSET calibration", "loc"),
            Made("Ax T1 FSPGR", "spgr", "t1"),
            Made("Ax T1 FSPGR GAD", "spgr", "t1c"),
            Made("Ax T2 PROPELLER", "t2", "t2"),
            Made("Ax T2 FLAIR fs", "flair", "flair"),
            Made("SWAN", "swi"),
            Made("Ax MERGE", "t2star"),
        ],
    ),
    "ge T1 FLAIR": (
        "ge",
        [
            Made("Ax T1 FLAIR", "t1flair", "t1"),
            Made("Ax T1 FLAIR +C", "t1flair", "t1c", GD),
            Made("Ax T2 FSE", "t2", "t2"),
            Made("Ax T2 FLAIR", "flair", "flair"),
        ],
    ),
    "ge AXT1": (
        "ge",
        [
            Made("AXT1", "t1se", "t1"),
            Made("AXT1+C", "t1se", "t1c"),
            Made("AXT2", "t2", "t2"),
            Made("AXFLAIR", "flair", "flair", {"SeriesDescription": "AX FLAIR"}),
        ],
    ),
    "ge cube": (
        "ge",
        [
            Made("Sag CUBE T1", "t1se", "t1", {"mm": (1, 1, 1)}),
            Made("Sag CUBE T1 POST", "t1se", "t1c", {"mm": (1, 1, 1)}),
            Made("Sag CUBE T2", "t2space", "t2"),
            Made("Sag CUBE T2 FLAIR", "flair3d", "flair"),
            Made("Cor STIR", "stir"),
            Made("3D ASL", "perf"),
        ],
    ),
    "ge screen save": (
        "ge",
        [
            Made("Ax T1 pre", "t1se", "t1"),
            Made("Ax T1 post", "t1se", "t1c"),
            Made("Ax T2", "t2", "t2"),
            Made("Ax FLAIR", "flair", "flair"),
            Made("Screen Save", "bare", "", {"Modality": "OT"}),
            Made("Dose Report", "bare", "", {"Modality": "SR"}),
        ],
    ),
    "ge agent none": (
        "ge",
        [
            Made("Ax T1", "t1se", "t1", {"ContrastBolusAgent": "NONE"}),
            Made("Ax T1 +C", "t1se", "t1c", GD),
            Made("Ax T2", "t2", "t2"),
            Made("Ax FLAIR", "flair", "flair"),
        ],
    ),
    "ge no TI for FLAIR": (
        "ge",
        [
            Made("Ax T1", "t1se", "t1", EMPTY),
            Made("Ax T1 C+", "t1se", "t1c"),
            Made("Ax T2", "t2", "t2"),
            Made("Ax T2 FLAIR", "flair", "flair", {"InversionTime": None}),
        ],
    ),
    "ge angiography": (
        "ge",
        [
            Made("Ax T1 SE", "t1se", "t1"),
            Made("Ax T1 SE Gd", "t1se", "t1c"),
            Made("Ax T2 FSE", "t2", "t2"),
            Made("Ax FLAIR", "flair", "flair"),
            Made("3D TOF MRA", "tof"),
            Made("COL:3D TOF MIP", "mip"),
            Made("Inhance 3D PC VENC 30", "tof"),
            Made("CINE PC", "tof"),
        ],
    ),
    "ge two T2": (
        "ge",
        [
            Made("Ax T1", "t1se", "t1"),
            Made("Ax T1 +C", "t1se", "t1c"),
            Made("Ax T2", "t2", "?"),
            Made("Cor T2", "t2", "?"),
            Made("Ax FLAIR", "flair", "flair"),
        ],
    ),
    # Philips
    "philips tfe": (
        "philips",
        [
            Made("SURVEY", "loc"),
            Made("T1W_3D_TFE", "spgr", "t1"),
            Made("T1W_3D_TFE GD", "spgr", "t1c"),
            Made("T2W_TSE", "t2", "t2"),
            Made("FLAIR_longTR", "flair", "flair"),
            Made("DWI_SSh", "dwi"),
            Made("dDWI_SSh ADC", "adc"),
        ],
    ),
    "philips french": (
        "philips",
        [
            Made("Repérage", "loc"),
            Made("AX T1 SE sans injection", "t1se", "t1"),
            Made("AX T1 SE avec gado", "t1se", "t1c"),
            Made("AX T2 TSE", "t2", "t2"),
            Made("AX FLAIR", "flair", "flair"),
            Made("AX T2 EG T2*", "t2star"),
        ],
    ),
    "philips french gadolinium": (
        "philips",
        [
            Made("3D T1 sans gado", "spgr", "t1"),
            Made("3D T1 après injection", "spgr", "t1c"),
            Made("T2 MultiVane", "t2", "t2"),
            Made("3D FLAIR VISTA", "flair3d", "flair"),
            Made("Perfusion DSC", "perf"),
            Made("Diffusion b1000", "dwi"),
        ],
    ),
    "philips enhanced": (
        "philips",
        [
            Made("Survey", "loc"),
            Made("T1W_SE", "t1se", "t1"),
            Made("T1W_SE +C", "t1se", "t1c"),
            Made("T2W_TSE", "t2", "t2"),
            Made("FLAIR", "flair", "flair"),
        ],
    ),
    "philips enhanced 3D": (
        "philips",
        [
            Made("3D T1 TFE", "spgr", "t1"),
            Made("3D T1 TFE Gd", "spgr", "t1c", GD),
            Made("3D BrainVIEW T2", "t2space", "t2"),
            Made("3D BrainVIEW FLAIR", "flair3d", "flair"),
            Made("MPR T1 Gd", "mpr"),
        ],
    ),
    "philips ffe": (
        "philips",
        [
            Made("T1-FFE", "t1gre", "t1"),
            Made("T1-FFE K+", "t1gre", "t1c"),
            Made("T2-TSE", "t2", "t2"),
            Made("FLAIR", "flair", "flair"),
            Made("T2-FFE", "t2star"),
            Made("SWIp", "swi"),
            Made("sWIP mIP", "mip"),
        ],
    ),
    "philips dual echo": (
        "philips",
        [
            Made("PDW/T2W", "pd", ""),
            Made("T2W_TSE", "t2", "t2"),
            Made("T1W_SE", "t1se", "t1"),
            Made("T1W_SE Dotarem", "t1se", "t1c"),
            Made("FLAIR", "flair", "flair"),
        ],
    ),
    "philips agent in every series": (
        "philips",
        [
            Made("T1W nativ", "t1se", "?", GD),
            Made("T1W KM", "t1se", "t1c", GD),
            Made("T2W_TSE", "t2", "t2", GD),
            Made("FLAIR", "flair", "flair", GD),
        ],
    ),
    "philips contrast not told": (
        "philips",
        [
            Made("T1W_SE ax", "t1se", "?"),
            Made("T1W_SE ax 2", "t1se", "?"),
            Made("T2W_TSE", "t2", "t2"),
            Made("FLAIR", "flair", "flair"),
        ],
    ),
    "philips med kontrast": (
        "philips",
        [
            Made("T1W 3D uten", "spgr", "t1", {"SeriesDescription": "T1W 3D -k"}),
            Made("T1W 3D med-kontrast", "spgr", "t1c"),
            Made("T2W", "t2", "t2"),
            Made("FLAIR", "flair", "flair"),
        ],
    ),
    # Canon, Toshiba; Japanese
    "canon japanese": (
        "canon",
        [
            Made("位置決め", "loc"),
            Made("T1WI 単純", "t1se", "t1"),
            Made("T1WI 造影", "t1se", "t1c"),
            Made("T2WI", "t2", "t2"),
            Made("FLAIR", "flair", "flair"),
            Made("拡散強調", "dwi"),
            Made("ADC", "adc"),
        ],
    ),
    "canon japanese before and after": (
        "canon",
        [
            Made("AX T1 造影前", "t1se", "t1"),
            Made("AX T1 造影後", "t1se", "t1c"),
            Made("AX T2", "t2", "t2"),
            Made("AX フレア", "flair", "flair"),
            Made("サブトラクション", "sub"),
        ],
    ),
    "canon fast ffe": (
        "canon",
        [
            Made("Locator scout", "loc"),
            Made("3D fastFE T1", "spgr", "t1"),
            Made("3D fastFE T1 +Gd", "spgr", "t1c"),
            Made("FASE3D_mVox T2", "t2space", "t2"),
            Made("FLAIR FASE3D", "flair3d", "flair"),
            Made("FSBB", "swi"),
        ],
    ),
    "canon jet": (
        "canon",
        [
            Made("SE T1", "t1se", "t1"),
            Made("SE T1 Gd", "t1se", "t1c"),
            Made("FSE T2 JET", "t2", "t2"),
            Made("FastFLAIR", "flair", "flair"),
        ],
    ),
    # Gaps and traps
    "without a description": (
        "siemens",
        [
            Made("", "t1se", "t1"),
            Made("", "t1se", "t1c", GD),
            Made("", "t2", "t2"),
            Made("", "flair", "flair"),
            Made("", "dwi"),
        ],
    ),
    "without any number": (
        "siemens",
        [
            Made("T1", "bare", "t1"),
            Made("T1 Gd", "bare", "t1c"),
            Made("T2", "bare", "t2"),
            Made("FLAIR", "bare", "flair"),
            Made("Topogramm", "bare"),
        ],
    ),
    "only a derived T1c": (
        "siemens",
        [
            Made("t1_se_tra", "t1se", "t1"),
            Made("t1_vibe_tra_KM", "mprage", "t1c", {**GD, "ImageType": ["DERIVED", "PRIMARY", "M", "NORM"]}),
            Made("t2_tse", "t2", "t2"),
            Made("flair", "flair", "flair"),
        ],
    ),
    "reversed order": (
        "ge",
        [
            Made("Ax FLAIR", "flair", "flair"),
            Made("Ax T1 POST GAD", "t1se", "t1c"),
            Made("Ax T2", "t2", "t2"),
            Made("Ax T1 PRE GAD", "t1se", "t1"),
            Made("T2 MAP", "t2"),
            Made("Synthetic T1", "t1se"),
        ],
    ),
    "without T1c": (
        "siemens",
        [
            Made("t1_se_tra", "t1se", "t1"),
            Made("t2_tse_tra", "t2", "t2"),
            Made("t2_flair_tra", "flair", "flair"),
            Made("fieldmap", "t1gre"),
            Made("svs_se_30", "bare"),
        ],
    ),
    "spine and neck too": (
        "siemens",
        [
            Made("t1_se_tra", "t1se", "t1"),
            Made("t1_se_tra_gd", "t1se", "t1c"),
            Made("t2_tse_tra", "t2", "t2"),
            Made("flair", "flair", "flair"),
            Made("t2_tse_sag_HWS", "t2"),
            Made("t1_tse_sag_cervical", "t1se"),
            Made("ciss3d_tra", "t2space"),
            Made("pd_tse", "pd"),
        ],
    ),
}
ENHANCED = {name for name in STUDIES if "enhanced" in name}
TIES = {name for name, (_, series) in STUDIES.items() if any(made.role == "?" for made in series)}
